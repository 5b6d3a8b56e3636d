"""Which blocks of keys a block of queries should attend: means, scores, selection, and what stands for the rest."""
