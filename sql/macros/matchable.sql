-- A text in the form in which two spellings of it are equal; for matching, never for display.
-- Upper case, single spaces, Western digits; alef, ya and ta marbuta in one form each, as banks
-- write them at will; without vowel marks, tatweel and marks of direction; presentation forms
-- (letters as old printers drew them) turned back into letters. Of letters drawn as one only
-- lam-alef and the words of names and money are taken apart: banks send no others. Text of plain
-- ASCII takes the short way. The long strings are pairs: each character of the first becomes the
-- one at its place in the second, and what has no place there is dropped. A test holds them to
-- Unicode's own tables.
create or replace macro matchable(input) as
case
    when strlen(input) = length(input) then upper(trim(regexp_replace(input, '\s+', ' ', 'g')))
    else upper(trim(regexp_replace(
        translate(
            replace(
                replace(
                    replace(
                        regexp_replace(input, '[ﻵﻶﻷﻸﻹﻺﻻﻼ]', 'لا', 'g'), 'ﷲ', 'الله'
                    ),
                    'ﷴ', 'محمد'
                ),
                '﷼', 'ريال'
            ),
            'أإآٱىةؤئیک٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹ﭐﭑﭒﭓﭔﭕﭖﭗﭘﭙ'
            || 'ﭚﭛﭜﭝﭞﭟﭠﭡﭢﭣﭤﭥﭦﭧﭨﭩﭪﭫﭬﭭﭮﭯﭰﭱﭲﭳﭴﭵﭶﭷﭸﭹﭺﭻﭼﭽﭾﭿﮀﮁ'
            || 'ﮂﮃﮄﮅﮆﮇﮈﮉﮊﮋﮌﮍﮎﮏﮐﮑﮒﮓﮔﮕﮖﮗﮘﮙﮚﮛﮜﮝﮞﮟﮠﮡﮢﮣﮤﮥﮦﮧﮨﮩ'
            || 'ﮪﮫﮬﮭﮮﮯﮰﮱﯓﯔﯕﯖﯗﯘﯙﯚﯛﯜﯞﯟﯠﯡﯢﯣﯤﯥﯦﯧﯨﯩﯼﯽﯾﯿﺀﺁﺂﺃﺄﺅ'
            || 'ﺆﺇﺈﺉﺊﺋﺌﺍﺎﺏﺐﺑﺒﺓﺔﺕﺖﺗﺘﺙﺚﺛﺜﺝﺞﺟﺠﺡﺢﺣﺤﺥﺦﺧﺨﺩﺪﺫﺬﺭ'
            || 'ﺮﺯﺰﺱﺲﺳﺴﺵﺶﺷﺸﺹﺺﺻﺼﺽﺾﺿﻀﻁﻂﻃﻄﻅﻆﻇﻈﻉﻊﻋﻌﻍﻎﻏﻐﻑﻒﻓﻔﻕ'
            || 'ﻖﻗﻘﻙﻚﻛﻜﻝﻞﻟﻠﻡﻢﻣﻤﻥﻦﻧﻨﻩﻪﻫﻬﻭﻮﻯﻰﻱﻲﻳﻴ！＂＃＄％＆＇（）'
            || '＊＋，－．／０１２３４５６７８９：；＜＝＞？＠ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱ'
            || 'ＲＳＴＵＶＷＸＹＺ［＼］＾＿｀ａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙ'
            || 'ｚ｛｜｝～ '
            || 'ًٌٍَُِّْٰـ​‌‍‎‏‪‫‬‭‮⁦⁧⁨⁩﻿ﹰﹱﹲﹳﹴ﹵ﹶﹷﹸﹹﹺﹻﹼﹽﹾ'
            || 'ﹿ؜',
            'اااايهوييك01234567890123456789ااٻٻٻٻپپپپ'
            || 'ڀڀڀڀٺٺٺٺٿٿٿٿٹٹٹٹڤڤڤڤڦڦڦڦڄڄڄڄڃڃڃڃچچچچڇڇڇڇ'
            || 'ڍڍڌڌڎڎڈڈژژڑڑككككگگگگڳڳڳڳڱڱڱڱںںڻڻڻڻۀۀہہہہ'
            || 'ھھھھےےۓۓڭڭڭڭۇۇۆۆۈۈۋۋۅۅۉۉېېېېييييييءااااو'
            || 'وااييييااببببههتتتتثثثثججججححححخخخخددذذر'
            || 'رززسسسسششششصصصصضضضضططططظظظظععععغغغغففففق'
            || 'قققككككللللممممننننههههوويييييي!"#$%&''()'
            || '*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQ'
            || 'RSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxy'
            || 'z{|}~ '
        ),
        '\s+', ' ', 'g'
    )))
end;
