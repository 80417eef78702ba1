"""Phase 1: documents and labels become training data. Each stage is a pure core and a thin Faust shell."""
