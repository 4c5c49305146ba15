"""What has been measured, as JSON, text, pictures and pages."""
