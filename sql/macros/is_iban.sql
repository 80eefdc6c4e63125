-- Whether an account number, as account_number spells it, has the form of an IBAN. Banks label
-- IBANs as card numbers and card numbers as IBANs, so the label does not count.
create or replace macro is_iban(number) as
coalesce(regexp_full_match(number, '[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}'), false);
