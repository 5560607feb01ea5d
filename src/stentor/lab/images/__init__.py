"""Images of the lab: names in a catalogue, each a command on the host's file system, a directory, or a warm program."""
