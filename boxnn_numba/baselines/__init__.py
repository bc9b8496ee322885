"""The published defences Box-NN is compared with: randomized ablation, feature partition."""
