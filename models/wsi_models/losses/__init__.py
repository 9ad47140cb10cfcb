"""What methods minimise, each a plain function of tensors."""
