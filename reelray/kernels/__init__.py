"""GPU operations, one folder per op: a reference, a Triton form where one pays, and one public function."""
