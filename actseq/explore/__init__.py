"""The page of `actseq explore`: a server on this machine, with the clips of a run on a map, and new sounds."""
