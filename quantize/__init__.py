"""Numbers with fewer bits: what an artifact of each precision is held to, and how a network becomes one of whole numbers."""
