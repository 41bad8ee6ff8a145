"""Many runs: which are due, who trains them, which learning rate is selected."""
