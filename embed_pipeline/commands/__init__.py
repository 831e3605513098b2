"""What the commands of the command line do, each in a module of its own."""
