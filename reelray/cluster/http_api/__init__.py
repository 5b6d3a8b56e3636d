"""HTTP beside gRPC: the videos of OpenAI's clients over the same renders, health and metrics."""
