"""Phase 2: from datasets to versions of adapters. The coordinator decides, a run trains, a gate judges."""
