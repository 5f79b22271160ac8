"""Numbers with fewer bits: today the precisions an artifact may be held to. Quantizers join as files of this folder."""
