"""The four tasks an adapter can have, each with one prompt renderer, output grammar, parser and metric.

Training, evaluation and serving call the same functions, so a prompt can't drift between them. A task's
completion is written line by line (`docs/decisions/0001-line-completions.md`), which keeps a copied value the same
tokens as in the message; parsers turn it into JSON.
"""
