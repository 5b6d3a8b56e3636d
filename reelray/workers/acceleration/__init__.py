"""What makes a video faster and moves it a little."""
