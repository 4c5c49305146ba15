"""What the commands share before a terminal: their parser, the options of the load, progress."""
