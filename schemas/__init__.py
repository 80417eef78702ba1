"""The ground: contracts, events, codec and topic catalogue. Imports nothing of ours."""
