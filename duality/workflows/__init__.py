"""What a command does, start to end."""
