"""Phase 3: requests are routed to adapters, several at once, and answered from one base in one engine."""
