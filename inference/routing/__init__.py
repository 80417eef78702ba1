"""Which adapters a message is for: clauses, scores of declared or fitted routes, one decision."""
