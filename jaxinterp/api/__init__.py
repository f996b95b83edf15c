"""The functions of `import jaxinterp as ji`, and the values that they return, which show themselves."""
