"""Results for people: tables, figures, pictures and self-contained HTML pages."""
