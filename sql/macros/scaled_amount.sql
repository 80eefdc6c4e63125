-- A share of an amount of money, rounded half up to three decimal places; the share has four
-- places.
create or replace macro scaled_amount(total, share) as
((
    ((total * 1000)::hugeint * (share * 10000)::hugeint + 5000::hugeint) // 10000::hugeint
)::decimal(35, 0) * 0.001::decimal(4, 3))::decimal(38, 9);
