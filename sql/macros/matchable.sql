-- A text in a form that is the same for every spelling of it; for matching, never for display.
-- Upper case, single spaces, Western digits. Alef, ya and ta marbuta have a single form each,
-- because banks write them at will. Vowel marks, tatweel and marks of direction are left out.
-- Presentation forms (letters as old printers drew them) become letters again. Letters that are
-- drawn together are taken apart only in lam-alef and in the words of names and money: banks send
-- no other such letters. Text of plain ASCII takes the short way. The long strings are pairs: each
-- character of the first becomes the character at the same place of the second, and is dropped if
-- there is none. A test compares them with Unicode's own tables.
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
