"""What a server's front end costs: CPU of its process by token and by request."""
