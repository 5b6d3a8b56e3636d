"""`reelray bench`: from options to ranks, and from what they found to reports and a calibration table."""
