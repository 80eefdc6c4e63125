-- An amount with its sign: CREDIT is money in, DEBIT money out. A minus that repeats DEBIT is not
-- turned over again. What contradicts itself (CREDIT and a minus) or has no known indicator is
-- unknown, and unknown is null.
create or replace macro signed(amount, indicator) as
case
    when indicator = 'DEBIT' then -abs(amount)
    when indicator = 'CREDIT' and amount >= 0 then amount
end;
