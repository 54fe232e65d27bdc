"""The .tflite file format: read without trust, written by hand, rewritten."""
