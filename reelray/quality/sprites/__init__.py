"""What the drawn world of sprites means: its words, shapes and captions, and a detector that judges its clips."""
