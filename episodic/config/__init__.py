"""From the command line to a configuration, and from a configuration to objects."""
