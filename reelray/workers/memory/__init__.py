"""What attention reads besides the window."""
