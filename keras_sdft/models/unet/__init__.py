"""The U-Net that predicts noise: its layers, blocks and graph."""
