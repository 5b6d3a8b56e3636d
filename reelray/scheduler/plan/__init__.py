"""The plan: which layout, which residency of weights and which place of decode run a job fastest."""
