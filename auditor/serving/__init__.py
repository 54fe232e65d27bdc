"""The inference service for people and for other programs: would a model be taken, and the service behind a socket."""
