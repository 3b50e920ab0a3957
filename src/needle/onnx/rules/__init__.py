"""ONNX's operators in those of Needle, a file a family: a table of rules, and what a rule is given (`call`)."""
