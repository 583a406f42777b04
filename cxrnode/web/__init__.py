"""The console, its API and the metrics: what the store knows, shown to those who may see it. Decodes no film."""
