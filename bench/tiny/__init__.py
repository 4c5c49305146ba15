"""The tiny model, what its answers have to be, and the servers that have it."""
