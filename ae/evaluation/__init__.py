"""Metrics, samples, probes and plots of a trained model."""
