"""Made-up names. No person, bank or shop is meant; where one is called the same, that is chance."""

from typing import Final

FIRST_NAMES: Final = (
    *("Ada", "Amir", "Anouk", "Beatriz", "Bilal", "Chiara", "Daniel", "Dunya", "Elif", "Emeka", "Freya", "Gustav", "Hana", "Ibrahim"),
    *("Ines", "Jonas", "Kaori", "Khalid", "Leila", "Lucas", "Maya", "Mateo", "Nadia", "Noor", "Olga", "Omar", "Priya", "Quentin"),
    *("Rafael", "Ravi", "Salma", "Sofia", "Tariq", "Tomas", "Uma", "Viktor", "Wanda", "Yara", "Yusuf", "Zoe"),
)
LAST_NAMES: Final = (
    *("Abara", "Almeida", "Bergstrom", "Castillo", "Dallow", "Eriksen", "Farouki", "Ferrante", "Garside", "Haddow", "Holm", "Ivanek"),
    *("Jansky", "Kapoor", "Karimov", "Lindqvist", "Lowell", "Marchetti", "Mensah", "Moreau", "Nakata", "Novik", "Okafor", "Oyelaran"),
    *("Petrov", "Quist", "Reyes", "Rossi", "Saleh", "Sandoval", "Tanabe", "Tarrant", "Urbina", "Varga", "Weston", "Yilmaz", "Zanetti"),
)
EMPLOYERS: Final = (
    "Cascade Robotics",
    "Brightwater Schools",
    "Tallgrass Foods",
    "Meridian Clinics",
    "Oak & Anvil Builders",
    "Lantern Software",
)
BANKS: Final = ("Harbor Street Bank", "Prairie Credit Union", "Juniper Savings Bank", "Copper Bridge Bank", "Fernhill Mutual")
LENDERS: Final = ("Northgate Lending", "Blue Heron Home Loans", "Silver Birch Finance")

LANDLORDS: Final = ("Alder Court Apartments", "Quarry Lane Homes", "Millpond Residences", "Sycamore Row Housing")
POWER: Final = ("Tidewater Power", "Ridgeline Energy", "Clearbrook Electric")
INTERNET: Final = ("Fernhill Fiber", "Signal Peak Internet")
PHONES: Final = ("Larkspur Mobile", "Hummingbird Wireless")
STREAMING: Final = ("Northlight Streaming", "Paperboat Films")
MUSIC: Final = ("Wavelength Music", "Evergreen Radio")
GYMS: Final = ("Ironwood Gym", "Riverside Climbing")
GROCERS: Final = ("Kestrel Market", "Green Gate Grocers", "Juniper Foods", "Corner Basket")
FUEL: Final = ("Halcyon Fuel", "Bayline Transit", "Switchback Gas")
CAFES: Final = ("Café Lumière", "Blue Kettle Coffee", "Third Crow Espresso")
RESTAURANTS: Final = ("Saffron Table", "Osteria Bellosguardo", "Lucky Crane Noodles", "The Copper Ladle")
SHOPS: Final = ("Halden Electronics", "Paper Lantern Books", "Thistle & Thread", "Wren Hardware")
