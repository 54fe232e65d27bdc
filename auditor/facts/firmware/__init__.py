"""Firmware images: which files an accelerator's driver names, which of them exist, what they are. One module an image format."""
