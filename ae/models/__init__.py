"""Networks: autoencoder, encoders, bottlenecks, decoders, heads, priors; wrappers, frozen and lazy modules."""
