-- A currency as ISO 4217 writes it, where that is certain: capitals without anything around them,
-- and three letters for three digits. Anything else stays as the bank wrote it, in capitals without
-- spaces around it; mart_data_quality counts it (unknown_currency). Null for an empty text.
create or replace macro currency_code(input) as
case
    when input in ('SAR', 'USD', 'EUR', 'AED') then input
    else list_transform(
        [upper(regexp_replace(input, '^[\pZ\pC]+|[\pZ\pC]+$', '', 'g'))],
        lambda bare:
        case
            when bare = '' then null
            when regexp_full_match(bare, '[0-9]{1,3}')
                then coalesce(currencies_by_number()[lpad(bare, 3, '0')], bare)
            else bare
        end
    )[1]
end;
