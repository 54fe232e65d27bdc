"""The inference service: the one place where a model or a vendor's library runs, always in a child process."""
