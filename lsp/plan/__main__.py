"""``python -m lsp.plan``: the table of docs/scaling.md."""

from lsp.plan.text import scaling_table

if __name__ == "__main__":
    print(scaling_table())
