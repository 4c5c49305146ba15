"""What a server uses while it is measured: cores, memory, GPUs."""
