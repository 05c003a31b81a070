"""The rows of benchmark.py: one comparison a file, each a function of the name that the command line has for it."""
