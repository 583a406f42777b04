"""The pure core: values, tables and decisions. No clock, file, socket, torch or SQL."""
