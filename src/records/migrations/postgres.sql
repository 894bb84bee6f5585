-- What SQLite has built in and the statements use. Run before the tables of a version are made.

-- Rows as one JSON text. Not STRICT: a strict function would not be inlined.
CREATE OR REPLACE FUNCTION json_each(rows TEXT) RETURNS TABLE (value JSONB) LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 100
    AS $$ SELECT jsonb_array_elements(CAST(rows AS jsonb)) $$;

CREATE OR REPLACE FUNCTION unhex(digits TEXT) RETURNS BYTEA LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT decode(digits, 'hex') $$;
