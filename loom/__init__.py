"""The roof: the command, the console, the embedded services. Imports all below."""
