-- HMAC-SHA256 of a text under the deployment's key, its first 128 bits in hexadecimal. Without the
-- key nobody can try IBANs until a hash fits. The pads come from the key; the build sets them.
create or replace macro keyed_hash(input) as
left(
    sha256(getvariable('outer_pad') || unhex(sha256(getvariable('inner_pad') || encode(input)))),
    32
);
