"""What a device is, read from its answers: typed, frozen, without verdicts. Runs on the device too: standard library and pyelftools."""
