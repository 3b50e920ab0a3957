"""Settings of the documentation's build."""

from importlib.metadata import version as installed_version

project = "Needle"
author = "The Needle developers"
copyright = "The Needle developers"
release = installed_version("needle-dl")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Needle"
exclude_patterns = ["_build", "experiments"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [
    ("Formula", "notes_style"),
    ("Shapes", "params_style"),
    ("Gradient", "notes_style"),
    ("State", "notes_style"),
    ("Cost", "notes_style"),
    ("Reference", "notes_style"),
]


def escape_formulas(app, what, name, obj, options, lines):  # noqa: PLR0917  the event's arguments
    """Keep |x| and *shape in docstrings as they stand: reStructuredText would take them for markup."""
    literal_indent = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal_indent is not None and line.strip() and indent <= literal_indent:
            literal_indent = None
        if literal_indent is None:
            if line.lstrip().startswith(">>>"):
                literal_indent = indent - 1
                continue
            parts = line.split("``")
            parts[::2] = [part.replace("|", r"\|").replace("(*", r"(\*").replace(", *", r", \*") for part in parts[::2]]
            lines[number] = "``".join(parts)
            if line.rstrip().endswith("::"):
                literal_indent = indent


def setup(app):
    """Register what Sphinx calls."""
    app.connect("autodoc-process-docstring", escape_formulas, priority=400)
