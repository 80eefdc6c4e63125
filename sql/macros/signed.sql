-- An amount with its sign: CREDIT is money in, DEBIT money out. A minus that repeats DEBIT does not
-- turn the sign again. An amount that contradicts its indicator (CREDIT with a minus), or has no
-- known indicator, is unknown, and unknown is null.
create or replace macro signed(amount, indicator) as
case
    when indicator = 'DEBIT' then -abs(amount)
    when indicator = 'CREDIT' and amount >= 0 then amount
end;
