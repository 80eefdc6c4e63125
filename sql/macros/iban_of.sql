-- The IBAN among an account's identifications, in capitals without spaces, or null. It is known by
-- its form, because banks label IBANs as card numbers and the other way round.
create or replace macro iban_of(identifications) as
list_min(list_filter(
    list_transform(
        identifications, lambda one: upper(replace(one.identification, ' ', ''))
    ),
    lambda found: regexp_full_match(found, '[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}')
));
